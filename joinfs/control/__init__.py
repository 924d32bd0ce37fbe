"""Asking a join for what is not reading or writing a key: the same whether it is mounted, by another process, or open in this one.

``requests`` is what can be asked and how it is answered, ``server`` a mount's end of a socket, and ``client`` the other one.
"""
