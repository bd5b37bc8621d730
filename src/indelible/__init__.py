"""Indelible: an audit trail for Python applications."""
