"""A small shop: customers, products, orders; every change of them is in an audit trail."""
