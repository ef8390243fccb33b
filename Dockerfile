# One image for every process; docker-compose.yml says which one a container runs.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

# The requirements first: they change seldom, and their layer is kept while the code changes.
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements.txt

COPY manage.py ./
COPY mailsite mailsite
COPY emails emails
COPY templates templates
COPY static static
RUN python -m compileall -q mailsite emails

# The user that runs it can't change the code. /data is for a container that runs alone, with SQLite;
# with PostgreSQL and Valkey beside it nothing there is worth keeping.
RUN useradd --uid 10001 --no-create-home mailsite && install -d -o mailsite -m 700 /data
ENV HOST=0.0.0.0 MAILSITE_DATA=/data LOG_FORMAT=json
USER mailsite

EXPOSE 8000
# Alive is enough here: whatever restarts a container for its health must not do so because the database is away.
# It is the web server's; a container that runs another process needs its own, or none.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=5)"]
CMD ["granian", "--interface", "wsgi", "--host", "0.0.0.0", "--port", "8000", "--workers", "1", "--blocking-threads", "16", "--no-ws", "--log-config", "mailsite/granian.json", "mailsite.wsgi:application"]
