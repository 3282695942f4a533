"""Options: routes, the REST API's token, and what is shown when there is no route or no target."""

from __future__ import annotations

import os
from typing import Any

from traitlets import Bool, Enum, HasTraits, TraitError, Unicode, default, validate
from traitlets.utils.bunch import Bunch

from chp.config.options.limits import Milliseconds
from chp.config.token import token_from_environment
from chp.errors import InvalidTarget
from chp.http1.target import Target


class RoutingOptions(HasTraits):
    """Routes and error pages"""

    default_target = Unicode(
        "",
        help="""
        Where requests go that no route matches, for example ``http://127.0.0.1:8081``.

        The same as adding the route ``/`` with this target at the start. JupyterHub adds that
        route itself.
        """,
    ).tag(config=True, metavar="URL")

    host_routing = Bool(
        False,
        help="""
        Route by host name: the first part of a route's path is the host.

        ``/hub.example.com/user/x`` matches requests for ``/user/x`` with the host
        ``hub.example.com``, ``/`` is the default for all hosts.
        """,
    ).tag(config=True)

    storage_url = Unicode(
        help="""
        Keep routes in this store, for example ``sqlite:///chp.sqlite``; by default in memory.

        ``sqlite:///FILE`` for the proxies of one machine, ``postgresql://USER:PASSWORD@HOST/DATABASE``
        or ``redis://:PASSWORD@HOST`` for those of several. Without a store the routes are gone when
        the proxy ends; JupyterHub adds them again. Every user of a machine can read command lines: a
        URL with a password belongs into the configuration file, or into the environment variable
        CONFIGPROXY_STORAGE_URL.
        """,
    ).tag(config=True, metavar="URL")

    @default("storage_url")
    def _default_storage_url(self) -> str:
        return os.environ.get("CONFIGPROXY_STORAGE_URL", "")

    storage_backend = Unicode(
        "",
        help="""
        The kind of store: memory, sql, redis, or a Python class ``package.module.Class``.

        By default the URL of the store decides.
        """,
    ).tag(config=True, metavar="NAME")

    storage_at_start = Enum(
        ["wait", "serve", "exit"],
        "wait",
        help="""
        What to do when the store can't be read at the start: wait, serve or exit.

        With ``wait`` nobody is answered until the routes are there, with ``serve`` requests are
        answered without them, with ``exit`` the proxy ends. The first two try again until it works.
        """,
    ).tag(config=True, metavar="NAME")

    storage_patience = Milliseconds(
        1000,
        help="""
        How many milliseconds a request without a route may wait for changes that are known to be missing.

        That is while the proxy reads what other proxies have changed, or has just lost its store.
        """,
    ).tag(config=True)

    wait_for_route = Unicode(
        "",
        help="""
        Answer nobody before there is a route with this path, for example ``/``.

        Until then connections wait to be accepted. Requests that come just after a restart so
        get no 404 because the routes are still to be added.
        """,
    ).tag(config=True, metavar="PATH")

    error_target = Unicode(
        "",
        help="""
        Fetch error pages from this server, for example ``http://127.0.0.1:8081/hub/error``.

        The proxy asks for ``URL/404?url=...`` or ``URL/503?url=...``. If that fails, the
        default page is shown.
        """,
    ).tag(config=True, live=True, metavar="URL")

    @validate("default_target", "error_target")
    def _check_target(self, proposal: Bunch) -> Any:
        if proposal.value:
            try:
                Target.parse(proposal.value)
            except InvalidTarget as error:
                raise TraitError(f"{proposal.trait.name}: {error}") from None
        return proposal.value

    error_path = Unicode(
        "",
        help="""
        A directory with error pages: ``404.html``, ``503.html``, and ``error.html`` for all others.

        The files are read again for each error, so that an edit shows at once.
        """,
    ).tag(config=True, live=True, metavar="DIR")

    auth_token = Unicode(
        help="""
        The secret that REST API requests have to show, as ``Authorization: token SECRET``.

        By default it is the value of the environment variable CONFIGPROXY_AUTH_TOKEN, or the
        content of the file that CONFIGPROXY_AUTH_TOKEN_FILE names. There is no command line
        option for it, because every user of a machine can read command lines. Without a token
        the API is open to everybody who reaches it.
        """,
    ).tag(config=True, flag=False)

    @default("auth_token")
    def _default_auth_token(self) -> str:
        return token_from_environment()
