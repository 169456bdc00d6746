"""Who owns which field: `metadata.managedFields`, and the server-side apply that rests on it.

Every write leaves an entry that names the writer (field manager, operation, apiVersion, subresource) and the set of fields
that are its own. Two kinds of writers:

    Update   owns what it changed; a change takes the field from whoever owned it, a removal from everybody
    Apply    owns what it applies; changing a field that somebody else owns is a conflict (409) unless forced, and what it
             applied before and no longer does is removed, if nobody else owns it

Modules, from the bottom: `elements` (the steps of a path), `fieldset` (sets of paths, FieldsV1), `shapes` (what the schema
says about merging), `owned` and `compare` (objects to sets), `merge` (objects and sets to objects), `typed` (what may be
applied at all), `entries` (the list in metadata), `tracking` (Update), `applying` (Apply).

Upstream: sigs.k8s.io/structured-merge-diff, k8s.io/apimachinery/pkg/util/managedfields.
"""
