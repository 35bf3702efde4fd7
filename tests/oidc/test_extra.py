"""Without the extra, the package says which one to install."""

import importlib
import sys

import pytest

from starsessions import ImproperlyConfigured, oidc


@pytest.mark.parametrize("package", ["httpx2", "joserfc"])
def test_without_its_extra_the_package_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImproperlyConfigured, match=r"install the extra starsessions\[oidc\]"):
        importlib.reload(oidc)
