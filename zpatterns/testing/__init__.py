"""Tools to test services that are built on zpatterns, and zpatterns itself."""
