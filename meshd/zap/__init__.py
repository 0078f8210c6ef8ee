"""``meshd import-zap``: from the router zones that Tribblix's zap has made to a config of ours."""
