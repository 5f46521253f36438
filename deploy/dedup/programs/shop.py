# A Django site as one file, which gunicorn serves: users in a database in memory, sessions
# and rendered pages in the process's cache.
import gc
import os

import django
from django.conf import settings

settings.configure(
    TIME_ZONE="UTC",
    USE_I18N=False,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of no use to anybody",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib." + app for app in ("admin", "auth", "contenttypes", "messages", "sessions")],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache",
                        "OPTIONS": {"MAX_ENTRIES": 100000}}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)
django.setup()

from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.template import engines
from django.urls import path

PAGE = engines["django"].from_string("""<html><head><title>{{ user.username }}</title></head><body>
<h1>{{ user.get_full_name|title }}</h1><p>{{ user.email|urlize }} since {{ user.date_joined|date:"c" }}</p>
<table>{% for u in users %}<tr class="{% cycle 'odd' 'even' %}"><td>{{ forloop.counter }}</td><td>{{ u.username }}</td>
<td>{{ u.email|urlize }}</td><td>{{ u.date_joined|timesince }}</td></tr>{% endfor %}</table></body></html>""")
ready = False


def prepare():
    global ready
    if not ready:
        with connection.schema_editor() as editor:
            for model in (ContentType, Permission, Group, User):
                editor.create_model(model)
        ready = True


def visit(request, first, last):
    prepare()
    user = User(username="%s.%s.%d" % (first, last, User.objects.count()), first_name=first, last_name=last,
                email="%s@%s.example" % (first, last))
    user.save()
    users = list(User.objects.order_by("-id")[:50])
    page = PAGE.render({"user": user, "users": users}, request)
    cache.set("page-%d" % user.id, page)
    request.session["seen"] = [u.username for u in users]
    return HttpResponse(page)


urlpatterns = [path("visit/<first>/<last>", visit)]
application = get_wsgi_application()

if "FREEZE" in os.environ:  # what Python's documentation advises before a fork
    gc.disable()
    gc.freeze()
