"""The benchmark: named cases, each timed in turns with what else does the same work.

The process of a case (`_child`) loads this package beside whichever build of
`miue_jax` it measures, so its modules import nothing else of it but the names that
every build has, and those only when a case is prepared.
"""
