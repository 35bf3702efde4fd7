"""Without the extra, the package says which one to install; the rest of the library does not need it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["httpx2", "joserfc"])
def test_without_its_extra_the_package_says_what_to_install(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
import starsessions.users
try:
    import starsessions.oidc
except starsessions.ImproperlyConfigured as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install the extra starsessions[oidc]" in done.stdout
