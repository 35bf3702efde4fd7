"""The settings of the middleware: what cannot work raises, what does nothing is logged, and both name the keyword."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette

from starsessions import CookieBackend, ImproperlyConfigured, InMemoryBackend, SessionMiddleware
from starsessions.backends.redis import RedisBackend
from starsessions.timeouts import AAL1, AAL2, AAL3
from tests.rows import rows
from tests.site import KEY

DAY = timedelta(days=1)


def build(**settings: Any) -> None:
    SessionMiddleware(Starlette(), **settings)


@rows(
    "settings, names",
    [
        ({"max_age": -1}, "max_age must be between"),
        ({"max_age": 1.5}, "max_age must be seconds"),
        ({"max_age": True}, "max_age must be seconds"),
        ({"max_age": "100"}, "max_age must be seconds"),
        ({"max_age": timedelta(milliseconds=500)}, "max_age must be between"),
        ({"absolute_timeout": 0}, "absolute_timeout must be between"),
        ({"rotate_every": timedelta(0)}, "rotate_every must be between"),
        ({"renew_every": 10}, "renew_every has no effect without rolling=True"),
        ({"rolling": True, "renew_every": 100, "max_age": 100}, "renew_every must be shorter than max_age"),
        ({"rolling": True, "renew_every": 14 * DAY, "max_age": None}, "renew_every must be shorter than max_age"),
        ({"rotate_every": 60}, "rotate_every must be longer than the 60 seconds"),
        ({"rotate_every": timedelta(seconds=60.9)}, "rotate_every must be longer than the 60 seconds"),
        ({"backend": CookieBackend(KEY), "rotate_every": 600}, "rotate_every needs a backend with a store"),
    ],
)
def test_durations_that_cannot_work_raise(settings: dict[str, Any], names: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=names):
        build(**{"backend": InMemoryBackend(), **settings})


@rows("flag", ["autoload", "no_store", "rolling", "partitioned"])
@rows("value", ["false", "", 0, None])
def test_a_flag_from_a_variable_must_be_a_bool(flag: str, value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"{flag} must be True or False"):
        build(**{"secret_key": KEY, flag: value})


@rows(
    "settings, without_effect",
    [
        ({"max_age": 7200, "absolute_timeout": 3600}, ["max_age"]),
        ({"max_age": DAY, "rolling": True, "renew_every": 7200, "absolute_timeout": 3600}, ["max_age", "renew_every"]),
        ({"rotate_every": 7200, "absolute_timeout": 3600}, ["rotate_every"]),
        ({"max_age": 3600, "rotate_every": 3600, "absolute_timeout": 3600}, []),
        ({"absolute_timeout": 3600}, []),
        ({"backend": CookieBackend(KEY), "on_conflict": "raise"}, ['on_conflict="raise"']),
        ({"on_conflict": "raise"}, []),
        ({"max_age": None, "absolute_timeout": 3600}, []),
        ({"max_age": None, "rolling": True}, []),
        ({"max_age": 100, "rotate_every": 3600}, []),
        ({"rotate_every": 61}, []),
        ({**AAL1}, []),
        ({**AAL2}, []),
        ({**AAL3}, []),
        ({**AAL2, "max_age": timedelta(minutes=30)}, []),
    ],
)
def test_a_setting_that_has_no_effect_beside_the_others_is_logged_once(
    caplog: pytest.LogCaptureFixture, settings: dict[str, Any], without_effect: list[str]
) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "starsessions"):
        build(**{"backend": InMemoryBackend(), **settings})
    assert [record.getMessage().partition(" has no effect: ")[0] for record in caplog.records] == without_effect


@rows("settings", [{}, {"secret_key": None}, {"backend": None}, {"secret_key": None, "backend": None}])
def test_a_key_from_a_variable_that_is_not_set_is_explained(settings: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"None counts as missing: is the variable that holds the key set"):
        build(**settings)


def test_an_explicit_none_beside_the_other_is_fine() -> None:
    build(secret_key=None, backend=InMemoryBackend())
    build(secret_key=KEY, backend=None)
    SessionMiddleware(Starlette(), KEY, backend=None)
    SessionMiddleware(Starlette(), KEY, None)


@rows(
    "keyword, meant",
    [
        ("store", "backend"),
        ("lifetime", "max_age if rolling is on, or else absolute_timeout"),
        ("cookie_name", "session_cookie"),
        ("cookie_same_site", "same_site"),
        ("cookie_https_only", "https_only"),
        ("cookie_domain", "domain"),
        ("cookie_path", "path"),
        ("serializer", "serializer=… of the backend"),
        ("encryptor", "encrypt_with=… of the backend, or EncryptedCookieBackend"),
        ("secure", "https_only"),
        ("idle_timeout", "max_age with rolling=True"),
        ("max_cookies", "max_cookies=… of CookieBackend or EncryptedCookieBackend"),
        ("encrypt_with", "encrypt_with=… of the backend, or EncryptedCookieBackend"),
        ("rolling_sessions", "rolling"),
        ("limits", "**AAL2 of starsessions.timeouts"),
        ("clock", "clock=… of the backend"),
    ],
)
def test_a_keyword_of_2_x_or_of_another_library_names_the_right_one(keyword: str, meant: str) -> None:
    with pytest.raises(TypeError) as raised:
        build(**{"secret_key": KEY, keyword: "any"})
    assert str(raised.value) == f"SessionMiddleware has no keyword '{keyword}': use {meant}."


def test_the_error_for_a_keyword_that_no_library_has_names_the_place_of_the_list() -> None:
    with pytest.raises(TypeError, match="no keyword 'made_up': see its documentation for the list"):
        build(secret_key=KEY, made_up="any")


@rows("keyword", ["httponly", "http_only", "cookie_httponly"])
def test_the_error_for_a_keyword_that_would_show_the_cookie_to_scripts_says_that_there_is_none(keyword: str) -> None:
    with pytest.raises(TypeError, match=f"'{keyword}': remove it, as the cookie is always HttpOnly"):
        build(**{"secret_key": KEY, keyword: True})


def test_a_url_or_the_third_argument_of_starlettes_middleware_in_the_place_of_a_backend_is_explained() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"RedisBackend\(url\)"):
        build(backend="redis://localhost")
    with pytest.raises(ImproperlyConfigured, match="session_cookie=…"):
        SessionMiddleware(Starlette(), KEY, "sid", 3600)  # type: ignore[arg-type]


def test_a_backend_that_is_a_class_is_refused_with_the_parentheses() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"use an instance, InMemoryBackend\(…\)"):
        build(backend=InMemoryBackend)


def test_a_prefix_of_redis_that_is_a_function_as_in_2_x_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="prefix must be a str, not function"):
        RedisBackend("redis://localhost", lambda key: key)  # type: ignore[arg-type]
