"""Options: certificates, and how TLS is spoken."""

from __future__ import annotations

from traitlets import Bool, HasTraits, Unicode


class TLSOptions(HasTraits):
    """TLS"""

    ssl_key = Unicode(
        "",
        help="""
        The proxy's private key, a PEM file.

        The passphrase of an encrypted one is taken from the environment variable
        CONFIGPROXY_SSL_KEY_PASSPHRASE. Without this option the key is expected in the
        certificate's file.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    ssl_cert = Unicode(
        "",
        help="""
        The proxy's certificate, a PEM file; with it the proxy speaks HTTPS.

        The certificate comes first, then those of intermediate authorities.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    ssl_ca = Unicode(
        "",
        help="""
        Authorities that clients' certificates are checked against, a PEM file with one or more.

        Only used with ``--ssl-request-cert``; by default the system's authorities.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    ssl_request_cert = Bool(
        False,
        help="""
        Ask clients for a certificate.

        On its own, clients without one are let in; one that is shown has to be valid.
        """,
    ).tag(config=True, live=True)

    ssl_reject_unauthorized = Bool(
        False,
        help="""
        Refuse clients without a certificate (only meaningful with ``--ssl-request-cert``).
        """,
    ).tag(config=True, live=True)

    ssl_protocol = Unicode(
        "",
        help="""
        Speak only this version: TLSv1_2 or TLSv1_3; by default both.

        TLSv1 and TLSv1_1 are accepted for very old clients, TLS and SSLv23 are the default.
        It counts for the API and for https targets as well.
        """,
    ).tag(config=True, live=True, metavar="PROTO")

    ssl_ciphers = Unicode(
        "",
        help="""
        The allowed ciphers up to TLS 1.2, in the notation of OpenSSL, separated by colons.

        By default those with forward secrecy and authenticated encryption. It counts for the
        API and for https targets as well.
        """,
    ).tag(config=True, live=True, metavar="LIST")

    ssl_allow_rc4 = Bool(
        False,
        help="""
        Allow the RC4 cipher as well. It is broken, and most OpenSSL libraries leave it out.
        """,
    ).tag(config=True, live=True)

    ssl_dhparam = Unicode(
        "",
        help="""
        Diffie-Hellman parameters, a PEM file. They are only needed for ciphers whose name begins with DHE.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    api_ssl_key = Unicode(
        "",
        help="""
        The REST API's private key, a PEM file.

        The passphrase of an encrypted one is taken from the environment variable
        CONFIGPROXY_API_SSL_KEY_PASSPHRASE.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    api_ssl_cert = Unicode(
        "",
        help="""
        The REST API's certificate, a PEM file; with it the API speaks HTTPS.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    api_ssl_ca = Unicode(
        "",
        help="""
        Authorities that the certificates of the API's clients are checked against, a PEM file.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    api_ssl_request_cert = Bool(
        False,
        help="""
        Ask clients of the API for a certificate.
        """,
    ).tag(config=True, live=True)

    api_ssl_reject_unauthorized = Bool(
        False,
        help="""
        Refuse clients of the API without a certificate (only meaningful with ``--api-ssl-request-cert``).
        """,
    ).tag(config=True, live=True)

    client_ssl_key = Unicode(
        "",
        help="""
        The private key for the certificate that https targets are shown, a PEM file.

        The passphrase of an encrypted one is taken from the environment variable
        CONFIGPROXY_CLIENT_SSL_KEY_PASSPHRASE.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    client_ssl_cert = Unicode(
        "",
        help="""
        The certificate that https targets are shown, a PEM file.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    client_ssl_ca = Unicode(
        "",
        help="""
        Authorities that the certificates of https targets are checked against, a PEM file.

        By default the system's authorities.
        """,
    ).tag(config=True, live=True, metavar="FILE")

    client_ssl_request_cert = Bool(
        False,
        help="""
        Accepted for compatibility; targets always have to show a certificate.
        """,
    ).tag(config=True, live=True)

    client_ssl_reject_unauthorized = Bool(
        False,
        help="""
        Accepted for compatibility; targets without a valid certificate are always refused.

        ``--insecure`` accepts them.
        """,
    ).tag(config=True, live=True)

    insecure = Bool(
        False,
        help="""
        Do not verify the certificates of https targets.

        Whoever can get between the proxy and a target can then read and change everything.
        """,
    ).tag(config=True, live=True)
