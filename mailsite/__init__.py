"""Mailsite: a transactional email service that you host yourself."""
