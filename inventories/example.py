"""Two kinds of host. Copy this file, name it after your fleet, put your hosts in.

Values may stand beside a host, beside a group, or in group_data/<group>.py; the nearer one wins.
Every key is described in README.md; none is needed: a host by its name alone is a full wish.
"""

training = (
    ["gpu01.example.net", "gpu02.example.net"],
    {"ssh_user": "ops", "policy": "lts"},
)

development = (
    [("dev01.example.net", {"torch": "2.13.0", "extras": ["pandas"]})],
    {"ssh_user": "ops"},
)
