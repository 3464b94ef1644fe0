"""A page that runs bundles in the browser: a static folder, and a server of it on this machine."""
