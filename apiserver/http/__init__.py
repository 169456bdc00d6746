"""HTTP: the only part that knows bytes on a wire. `exchange` has its values, `server` the sockets, `api` the verbs."""
