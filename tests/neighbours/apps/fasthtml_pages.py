"""FastHTML: `sess_cls` takes any middleware. It finds the session by the names of parameters without a type."""

from fasthtml.common import FastHTML, JSONResponse, RedirectResponse
from sessions import KEY, SessionMiddleware

app = FastHTML(secret_key=KEY, sess_cls=SessionMiddleware)


@app.post("/login")
def login(sess, name: str):
    sess["auth"] = name
    return RedirectResponse("/", status_code=303)


@app.get("/")
def home(session):
    session.setdefault("pages", []).append("home")
    return JSONResponse(dict(session))


@app.post("/logout")
def logout(sess):
    del sess["auth"]
    return RedirectResponse("/", status_code=303)
