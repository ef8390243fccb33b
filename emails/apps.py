from django.apps import AppConfig


class EmailsConfig(AppConfig):
    name = "emails"
    verbose_name = "Mail"

    def ready(self) -> None:
        from emails import checks  # noqa: F401  registers itself
