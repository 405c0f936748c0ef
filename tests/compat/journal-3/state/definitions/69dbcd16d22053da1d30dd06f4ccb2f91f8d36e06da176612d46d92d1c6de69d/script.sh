cat; echo complaint >&2
