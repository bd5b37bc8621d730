"""
The collector: takes in the logs of many producers over TLS, and answers about them.

::

    serving   ->  app  ->  callers, limits  ->  ingest, events, producers   ->  Collector, Trail
    TLS, HTTP     routes   who, how often       reading, feed, governing        the log

What holds is decided in the core; here requests become calls, and errors become problems.
Needs ``pip install 'indelible[collector]'``.
"""
