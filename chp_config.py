# Configuration file for chp. Take the comment sign away from what you change.

c = get_config()  # noqa: F821

# -- Addresses --

# Public-facing IP address or host name of the proxy; empty: all interfaces.
#
# All interfaces include IPv6. ``::`` means the same, and ``*``, which is accepted with a warning.
# c.ConfigurableProxy.ip = ''

# Public-facing port of the proxy; 0: any free port.
#
# With 0, the port that was found is in the log.
# c.ConfigurableProxy.port = 8000

# Path of a unix domain socket for the proxy to listen on, instead of an IP address and port.
#
# The file gets the modes that the umask gives. A file that an earlier process left is
# replaced if nobody listens on it. It is removed at exit.
# c.ConfigurableProxy.socket = ''

# Expect the PROXY protocol (version 1 or 2) of a load balancer on the proxy's port or socket.
#
# Each connection then has to begin with such a header, before TLS; others are closed. The
# client's address is what the header says, unless ``--trusted-proxies`` are set and the peer
# is none of them. Without that list, whoever reaches the port can claim any address. The API,
# the metrics and ``--redirect-port`` go without.
# c.ConfigurableProxy.proxy_protocol = False

# IP address or host name for REST API requests; empty: all interfaces.
#
# Who reaches the API and has the token decides where every user's requests go: keep
# it on an address that only the Hub can reach.
# c.ConfigurableProxy.api_ip = 'localhost'

# Port for REST API requests; by default the proxy's port plus one.
#
# Where the proxy's port is 0, it is any free port too.
# c.ConfigurableProxy.api_port = 0

# Path of a unix domain socket for the REST API, instead of an IP address and port.
# c.ConfigurableProxy.api_socket = ''

# Let other processes listen on the same ports; the kernel shares out the connections.
#
# For several proxies on one machine, with a store that they share (``--storage-url``).
# It is about the ports of the proxy, the REST API and the redirects, and every process
# has to ask for it. The metrics are those of one process, and need a port for each.
# c.ConfigurableProxy.reuse_port = False

# IP address or host name of the metrics server; empty: all interfaces.
# c.ConfigurableProxy.metrics_ip = ''

# Port of the metrics server; without it (and without a socket) there is none.
#
# Prometheus finds the metrics at ``/metrics`` there. 0 is any free port.
# c.ConfigurableProxy.metrics_port = None

# Path of a unix domain socket for the metrics server, instead of an IP address and port.
# c.ConfigurableProxy.metrics_socket = ''

# Redirect HTTP requests on this port to the proxy's port with HTTPS.
#
# It listens on the same IP address as the proxy, and needs a certificate
# (``--ssl-cert``).
# c.ConfigurableProxy.redirect_port = None

# The port to which requests on the redirect port are sent; by default the proxy's own.
#
# For a proxy that clients reach by another port than the one that it listens on: in
# a container with ``--port 8443 --redirect-port 8000``, say ``--redirect-to 443``.
# c.ConfigurableProxy.redirect_to = None

# -- Routes and error pages --

# Where requests go that no route matches, for example ``http://127.0.0.1:8081``.
#
# The same as adding the route ``/`` with this target at the start. JupyterHub adds that
# route itself.
# c.ConfigurableProxy.default_target = ''

# Route by host name: the first part of a route's path is the host.
#
# ``/hub.example.com/user/x`` matches requests for ``/user/x`` with the host
# ``hub.example.com``, ``/`` is the default for all hosts.
# c.ConfigurableProxy.host_routing = False

# Keep routes in this store, for example ``sqlite:///chp.sqlite``; by default in memory.
#
# ``sqlite:///FILE`` for the proxies of one machine, ``postgresql://USER:PASSWORD@HOST/DATABASE``
# or ``redis://:PASSWORD@HOST`` for those of several. Without a store the routes are gone when
# the proxy ends; JupyterHub adds them again. Every user of a machine can read command lines: a
# URL with a password belongs into the configuration file, or into the environment variable
# CONFIGPROXY_STORAGE_URL.
# c.ConfigurableProxy.storage_url = ''

# The kind of store: memory, sql, redis, or a Python class ``package.module.Class``.
#
# By default the URL of the store decides.
# c.ConfigurableProxy.storage_backend = ''

# What to do when the store can't be read at the start: wait, serve or exit.
#
# With ``wait`` nobody is answered until the routes are there, with ``serve`` requests are
# answered without them, with ``exit`` the proxy ends. The first two try again until it works.
# c.ConfigurableProxy.storage_at_start = 'wait'

# How many milliseconds a request without a route may wait for changes that are known to be missing.
#
# That is while the proxy reads what other proxies have changed, or has just lost its store.
# c.ConfigurableProxy.storage_patience = 1000

# Answer nobody before there is a route with this path, for example ``/``.
#
# Until then connections wait to be accepted. Requests that come just after a restart so
# get no 404 because the routes are still to be added.
# c.ConfigurableProxy.wait_for_route = ''

# Fetch error pages from this server, for example ``http://127.0.0.1:8081/hub/error``.
#
# The proxy asks for ``URL/404?url=...`` or ``URL/503?url=...``. If that fails, the
# default page is shown.
# c.ConfigurableProxy.error_target = ''

# A directory with error pages: ``404.html``, ``503.html``, and ``error.html`` for all others.
#
# The files are read again for each error, so that an edit shows at once.
# c.ConfigurableProxy.error_path = ''

# The secret that REST API requests have to show, as ``Authorization: token SECRET``.
#
# By default it is the value of the environment variable CONFIGPROXY_AUTH_TOKEN, or the
# content of the file that CONFIGPROXY_AUTH_TOKEN_FILE names. There is no command line
# option for it, because every user of a machine can read command lines. Without a token
# the API is open to everybody who reaches it.
# c.ConfigurableProxy.auth_token = ''

# -- Forwarded requests and responses --

# What carries requests to targets: direct, curl, or auto for curl with https targets only.
#
# direct is the faster one; curl speaks through libcurl, with its TLS. WebSockets always
# go direct.
# c.ConfigurableProxy.upstream = 'auto'

# Add ``X-Forwarded-*`` headers to proxied requests.
#
# They tell the target the client's address, and the host, port and protocol that the
# client used.
# c.ConfigurableProxy.x_forward = True

# Believe what these proxies in front say of the client, and nobody else; may be given more than once.
#
# ``--trusted-proxies 10.0.0.0/8 --trusted-proxies 192.0.2.7``: IP addresses and networks, also
# with commas between them; ``unix:`` stands for whoever connects to the unix socket, and
# ``none`` for nobody (there is no proxy in front). From everybody else, ``X-Forwarded-*``,
# ``Forwarded``, ``X-Real-IP`` and ``X-Scheme`` are dropped, so that no client can pretend to be
# another. The client's address in the access log is then the
# last one in ``X-Forwarded-For`` that is not one of these proxies.
#
# Without this option everything that clients send is passed on, with the proxy's own values
# behind it, as in configurable-http-proxy.
# c.ConfigurableProxy.trusted_proxies = []

# Prepend the path of the target's URL to the path of proxied requests.
# c.ConfigurableProxy.prepend_path = True

# Include the routing prefix in proxied requests.
#
# Without it, a request for ``/user/x/tree`` on the route ``/user/x`` is sent on as ``/tree``.
# c.ConfigurableProxy.include_prefix = True

# Rewrite host and port of the Location in redirects that point at the target.
# c.ConfigurableProxy.auto_rewrite = False

# Rewrite the protocol of the Location in redirects that point at the target: http or https.
# c.ConfigurableProxy.protocol_rewrite = ''

# Send the target's host and port as Host, instead of what the client sent.
# c.ConfigurableProxy.change_origin = False

# Add a header to proxied requests; may be given more than once.
#
# ``--custom-header 'X-Served-By: hub'``, or in a file
# ``c.ConfigurableProxy.custom_header = ["X-Served-By: hub"]``. It replaces the same
# header of the client; of several with the same name the last one is sent.
# c.ConfigurableProxy.custom_header = []

# Leave this header out of proxied requests; may be given more than once.
#
# It is left out also where the proxy would add it itself, as with ``X-Forwarded-Host``.
# What ``--custom-header`` says is sent.
# c.ConfigurableProxy.remove_request_header = []

# Add a header to responses; may be given more than once.
#
# ``--custom-response-header 'Strict-Transport-Security: max-age=31536000'``. It replaces
# the same header of the target; of several with the same name the last one is sent. Error
# pages, and all else that the proxy answers itself, have it too; redirects of
# ``--redirect-port`` do not.
# c.ConfigurableProxy.custom_response_header = []

# Leave this header out of responses, for example ``Server``; may be given more than once.
#
# What ``--custom-response-header`` says is sent.
# c.ConfigurableProxy.remove_response_header = []

# Give every request an id in this header, for example ``X-Request-ID``; by default there is none.
#
# The target gets it, and the client with the response; it is in the access log, and in the
# log where a request fails. One that came with the request is kept if one of
# ``--trusted-proxies`` sent it and it has at most 128 letters, digits and ``._~:;=+/@-``;
# otherwise the id is new and random.
# c.ConfigurableProxy.request_id_header = ''

# A function that may change each outgoing request before it is sent.
#
# For a configuration file only. It is called with the head of the request for the
# target, and has to be quick: all other requests wait for it.
# c.ConfigurableProxy.proxy_request = None

# -- TLS --

# The proxy's private key, a PEM file.
#
# The passphrase of an encrypted one is taken from the environment variable
# CONFIGPROXY_SSL_KEY_PASSPHRASE. Without this option the key is expected in the
# certificate's file.
# c.ConfigurableProxy.ssl_key = ''

# The proxy's certificate, a PEM file; with it the proxy speaks HTTPS.
#
# The certificate comes first, then those of intermediate authorities.
# c.ConfigurableProxy.ssl_cert = ''

# Authorities that clients' certificates are checked against, a PEM file with one or more.
#
# Only used with ``--ssl-request-cert``; by default the system's authorities.
# c.ConfigurableProxy.ssl_ca = ''

# Ask clients for a certificate.
#
# On its own, clients without one are let in; one that is shown has to be valid.
# c.ConfigurableProxy.ssl_request_cert = False

# Refuse clients without a certificate (only meaningful with ``--ssl-request-cert``).
# c.ConfigurableProxy.ssl_reject_unauthorized = False

# Speak only this version: TLSv1_2 or TLSv1_3; by default both.
#
# TLSv1 and TLSv1_1 are accepted for very old clients, TLS and SSLv23 are the default.
# It counts for the API and for https targets as well.
# c.ConfigurableProxy.ssl_protocol = ''

# The allowed ciphers up to TLS 1.2, in the notation of OpenSSL, separated by colons.
#
# By default those with forward secrecy and authenticated encryption. It counts for the
# API and for https targets as well.
# c.ConfigurableProxy.ssl_ciphers = ''

# Allow the RC4 cipher as well. It is broken, and most OpenSSL libraries leave it out.
# c.ConfigurableProxy.ssl_allow_rc4 = False

# Diffie-Hellman parameters, a PEM file. They are only needed for ciphers whose name begins with DHE.
# c.ConfigurableProxy.ssl_dhparam = ''

# The REST API's private key, a PEM file.
#
# The passphrase of an encrypted one is taken from the environment variable
# CONFIGPROXY_API_SSL_KEY_PASSPHRASE.
# c.ConfigurableProxy.api_ssl_key = ''

# The REST API's certificate, a PEM file; with it the API speaks HTTPS.
# c.ConfigurableProxy.api_ssl_cert = ''

# Authorities that the certificates of the API's clients are checked against, a PEM file.
# c.ConfigurableProxy.api_ssl_ca = ''

# Ask clients of the API for a certificate.
# c.ConfigurableProxy.api_ssl_request_cert = False

# Refuse clients of the API without a certificate (only meaningful with ``--api-ssl-request-cert``).
# c.ConfigurableProxy.api_ssl_reject_unauthorized = False

# The private key for the certificate that https targets are shown, a PEM file.
#
# The passphrase of an encrypted one is taken from the environment variable
# CONFIGPROXY_CLIENT_SSL_KEY_PASSPHRASE.
# c.ConfigurableProxy.client_ssl_key = ''

# The certificate that https targets are shown, a PEM file.
# c.ConfigurableProxy.client_ssl_cert = ''

# Authorities that the certificates of https targets are checked against, a PEM file.
#
# By default the system's authorities.
# c.ConfigurableProxy.client_ssl_ca = ''

# Accepted for compatibility; targets always have to show a certificate.
# c.ConfigurableProxy.client_ssl_request_cert = False

# Accepted for compatibility; targets without a valid certificate are always refused.
#
# ``--insecure`` accepts them.
# c.ConfigurableProxy.client_ssl_reject_unauthorized = False

# Do not verify the certificates of https targets.
#
# Whoever can get between the proxy and a target can then read and change everything.
# c.ConfigurableProxy.insecure = False

# -- Timeouts (in milliseconds) and limits --

# Drop a client's connection after this many milliseconds of silence in a request; 0: never.
#
# Silence means that nothing moves in either direction. Transfers that make progress
# may take as long as they like.
# c.ConfigurableProxy.timeout = 0

# Give up on a target that is silent for this many milliseconds in a request; 0: never.
#
# Before the response's head, the client gets a 503; later, its connection is reset.
# c.ConfigurableProxy.proxy_timeout = 0

# Close a client's connection that has no request for this many milliseconds; 0: the default.
#
# A load balancer in front of the proxy should have a shorter one than this.
# c.ConfigurableProxy.keep_alive_timeout = 5000

# How many milliseconds the health check says 503, with all else as before, until the proxy stops.
#
# So that a load balancer that asks for ``/_chp_healthz`` sends nothing more by the time the
# proxy stops accepting. A second signal ends the wait.
# c.ConfigurableProxy.drain_delay = 0

# How many milliseconds requests that are under way get to finish when the proxy stops.
#
# Idle connections and WebSockets are closed at once. A second signal ends the wait.
# c.ConfigurableProxy.drain_timeout = 30000

# Give up on a target that does not accept a connection within this many milliseconds.
#
# Afterwards, and until it does, only some requests try it again: the others get their
# 503 within about a second.
# c.ConfigurableProxy.connect_timeout = 10000

# Close a client's connection whose request head is not complete after this many milliseconds.
#
# It keeps clients that send a byte now and then from holding connections for ever.
# c.ConfigurableProxy.head_timeout = 60000

# Close a client's connection whose TLS handshake takes longer than this many milliseconds.
# c.ConfigurableProxy.tls_handshake_timeout = 30000

# Close an unused connection to a target after this many milliseconds.
#
# A target that closes its unused connections earlier than this is no harm: a request
# that meets such a connection is sent again where that is safe.
# c.ConfigurableProxy.pool_idle_timeout = 60000

# How many unused connections to one target are kept open; 0: none.
# c.ConfigurableProxy.pool_max_idle = 64

# The largest head of a request or response, in bytes.
#
# A request with a larger one gets a 431, a response with a larger one becomes a 503.
# c.ConfigurableProxy.max_head_size = 65536

# The longest first line of a request, in bytes; with a longer one it gets a 414.
#
# It is method, path and query. It is a part of the head, and counts for ``max_head_size`` too.
# c.ConfigurableProxy.max_request_line = 16384

# How many header lines a request may have; with more it gets a 431.
# c.ConfigurableProxy.max_field_count = 256

# How many bytes may wait for a slow peer before the sender is paused.
#
# Each connection may hold as much, so this bounds the memory that slow clients cost.
# c.ConfigurableProxy.write_buffer_high = 65536

# The largest body of a REST API request, in bytes; a larger one gets a 413.
# c.ConfigurableProxy.api_max_body_size = 1048576

# How many connections of clients, WebSockets included, may be open at a time; 0: by the limit of files.
#
# With more, the proxy stops accepting until one of them ends, and those who come wait in the
# kernel's backlog, as with HAProxy's maxconn; health checks wait with them. The default is
# half of the process's limit of open files, less 32 for other things, so that each connection
# finds a file descriptor for its target.
# c.ConfigurableProxy.max_connections = 0

# How many connections one client's address may have open at a time; 0: any number.
#
# One more is closed at once, without an answer, and before TLS. The address is that of the
# connection, or what a PROXY header says (``--proxy-protocol``): behind any other load
# balancer, and for users behind one NAT, all have the same.
# c.ConfigurableProxy.max_connections_per_address = 0

# How many requests and WebSockets may be under way to one target at a time; 0: any number.
#
# One more gets a 503 at once. All routes with the same host and port count together.
# c.ConfigurableProxy.max_connections_per_target = 0

# -- Process --

# How much to log: debug, info, warn or error.
#
# info says which routes come and go, warn what needs attention, error what failed.
# c.ConfigurableProxy.log_level = 'info'

# Write the log as JSON, an object on each line: ``time``, ``level``, ``logger``, ``message``.
#
# ``exception`` is there too where there was one. An error that keeps the proxy from
# starting stays a plain line.
# c.ConfigurableProxy.log_json = False

# Write the process id to this file.
#
# It is written when the servers listen, and removed at exit.
# c.ConfigurableProxy.pid_file = ''

# The event loop: uvloop, asyncio, or auto for uvloop where it is installed.
#
# uvloop makes the proxy faster; ``pip install 'jupyterhub-chp[speed]'`` installs it.
# c.ConfigurableProxy.event_loop = 'auto'

# Write a line for each request to this file, or to standard output (``-``); by default there is none.
#
# It is written when the request is over, WebSockets included: client, method, path, status,
# bytes, route, target, duration, why it ended. Queries, and all headers but ``User-Agent``,
# are left out. A thread of its own writes, several lines at once; if the disk is that slow that
# 4 MiB wait, lines are dropped, and the log says how many.
# c.ConfigurableProxy.access_log = ''

# How the access log looks: text, which is the Combined Log Format and more, or json.
#
# json is an object for each line.
# c.ConfigurableProxy.access_log_format = 'text'
