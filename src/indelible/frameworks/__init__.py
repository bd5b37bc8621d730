"""
Frameworks: adapters that bring into a trail what happens in an application.

Each module is for one framework or library, named as it is, and needs it installed; none
is imported by the package itself. They are thin: a request becomes a
`indelible.context.Work`, a changed row an `indelible.capture.Row`.
"""
