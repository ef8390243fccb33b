from importlib import import_module

from emails.management.commands.rqworker import Delivering

stock = import_module("django_rq.management.commands.rqworker-pool")


class Command(Delivering, stock.Command):
    help = "Delivers mail with several worker processes. Serves all queues, high first, unless some are named."
