"""The fault test: the whole system with its real commands, killed at random moments, and counted afterwards.

    python -m chaos --database sqlite --mails 10000 --kills 50 --seed 1 --policy resend

clients.py submits, relay.py takes the mail and misbehaves, world.py holds the processes, storm.py kills
them, report.py compares what was promised with what arrived. docs/guarantees.md has results.
"""
