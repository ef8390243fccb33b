"""What templates ask the operator's desk for."""

from django import template
from django.template.context import RequestContext

from emails import surroundings
from emails.admin import DECISIONS, Decision
from emails.models import EmailRequest

register = template.Library()
register.simple_tag(surroundings.warnings, name="surroundings_warnings")


@register.simple_tag(takes_context=True)
def decisions(context: RequestContext, email: EmailRequest) -> list[Decision]:
    """What whoever looks may decide about a message in its state."""
    user = context["request"].user
    may = user.is_staff and user.has_perm("emails.change_emailrequest")
    return [decision for decision in DECISIONS if email.state in decision.states] if may else []
