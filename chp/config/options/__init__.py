"""Every option as a trait, grouped by what it is about.

The groups are plain ``HasTraits``, so that all their traits belong to the one
configurable class that an operator sees: ``ConfigurableProxy``. A trait
``some_name`` is the command line's ``--some-name`` (``--no-some-name`` for a
switch that is on), unless it is tagged ``flag=False``. The first paragraph of
a trait's help is what ``--help`` shows. A reload changes the traits that are tagged
``live=True``, and names the others that it would have to change.
"""

from __future__ import annotations

from chp.config.options.addresses import AddressOptions
from chp.config.options.forwarding import ForwardingOptions
from chp.config.options.limits import LimitOptions
from chp.config.options.process import ProcessOptions
from chp.config.options.routing import RoutingOptions
from chp.config.options.tls import TLSOptions

# In the order in which --help lists them.
GROUPS = (AddressOptions, RoutingOptions, ForwardingOptions, TLSOptions, LimitOptions, ProcessOptions)


class Options(AddressOptions, RoutingOptions, ForwardingOptions, TLSOptions, LimitOptions, ProcessOptions):
    """All options together."""
