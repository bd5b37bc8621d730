"""
The client: reads from a collector and believes nothing that it cannot verify.

::

    reading     ->  session                     ->  items, hashes, memory
    Client,         what to ask, what must hold     entries, proofs, what was seen before
    AsyncClient
    recording   ->  exchange, connection
    no disk         requests and answers; HTTP

Session and what it knows are pure: they say what to ask and judge what is answered.
`connection` alone touches the network. Needs ``pip install 'indelible[client]'``.
"""

from indelible.client.reading import AsyncClient, Client
from indelible.client.recording import RemoteRecorder

__all__ = ["AsyncClient", "Client", "RemoteRecorder"]
