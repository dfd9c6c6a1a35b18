"""What happens, seen as it happens: events of the bus, handed to Socket.IO clients.

Read in this order: `update` (an event, encoded once), `mailbox` (what waits
for one client), `client` (one connection), `topics` (who wants what), `slots`
(ten sockets per account), `missed` (what happened meanwhile), `sockets` (the
events that clients send), `__main__`.
"""
