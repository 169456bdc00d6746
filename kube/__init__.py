"""The Kubernetes vocabulary: typed objects, selectors, quantities, the client, the informer, the one loop, settings.

Every room below speaks it; it knows no kernel (that is `linux`) and no room.
"""
