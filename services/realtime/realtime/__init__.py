"""The realtime service, which delivers events of the bus to Socket.IO clients.

Read in this order: `update` (an event, encoded once), `mailbox` (one client's backlog),
`client` (one connection), `topic` and `topics` (who follows what), `slots` (ten sockets per
account), `cursor` and `replay` (what a client missed), `subscriptions` (the events that
clients send), `admission` and `keys` (who may), `sockets` (all of it), `engine` and
`websocket` (the libraries below), `__main__`.
"""
