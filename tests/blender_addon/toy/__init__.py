"""A capability that Panoform doesn't have: it adds numbers. What a new kind of job takes, and no more.

contract.py   shared/jobs/X.py          request and reply
job.py        backend/X/job.py          run(request, models, reporter) -> reply
command.py    backend/cli/X.py          the command
feature.py    blender_addon/X/          spec and operator
backend.py    what backend/jobs/registry.py and backend/cli/main.py would list, as a program
"""
