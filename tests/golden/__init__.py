"""Golden plans: what pyinfra would run on a host of every kind, as files to read and review.

    python -m tests.golden             compare, as the test does
    python -m tests.golden --update    write them anew; the difference is for the pull request

One file per (distribution, flavour, state) says what the host was, the verdict and every step with
its commands. The commands are those that pyinfra's own `@fake` connector was given by its own
command running deploy/site.py: inventory, lock, probe parser, solver's check, plan and engine take
part. What a command would do to the host is played by `machine.py`, so that a plan which does not
lead to a converged host fails. Nothing here has touched a real package manager; the simulated
fleet's tests do that.
"""
