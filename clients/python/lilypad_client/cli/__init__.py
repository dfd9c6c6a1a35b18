"""The command line `lilypad`."""
