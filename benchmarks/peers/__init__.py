"""
Peers: libraries that record changes of rows, each in a process of its own beside ours.

They hook into Django or SQLAlchemy for the whole process, so no two can share one.
`benchmarks.capture` starts the workers, in an environment of their own (``make peers``).
"""
