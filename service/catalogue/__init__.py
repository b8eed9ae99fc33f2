"""Items that come and go while bundles serve, and all that is held of a user: asked for here, done by the
consumer."""
