"""Audit: who did what, written down (audit.k8s.io/v1).

    policy   which requests, and how much of each: the first rule that matches decides
    events   what is known of a request, as upstream's Event
    log      JSON lines in a file that rotates, written by a thread

Nothing waits for the file: events go through a bounded queue, and what does not fit is counted as lost. Without
--audit-policy-file and --audit-log-path there is no audit, and a request pays one comparison.
"""
