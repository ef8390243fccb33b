from django import template

from emails import surroundings

register = template.Library()
register.simple_tag(surroundings.warnings, name="surroundings_warnings")
