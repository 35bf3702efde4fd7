// An identity provider: better-auth with its OAuth provider, as they come, with a form that lets any name sign in.
// node better_auth.mjs PORT APPLICATION, in a folder that has the packages in node_modules. /client says who the
// application is here.
import { createServer } from "node:http";
import { oauthProvider } from "@better-auth/oauth-provider";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { toNodeHandler } from "better-auth/node";
import { jwt } from "better-auth/plugins";

const [port, application] = process.argv.slice(2);
const origin = `http://127.0.0.1:${port}`;
const password = "the-password-of-everyone";

// It sends logout tokens to public addresses only. This one is that of the application on this machine.
const shop = "https://shop.example.com";
const send = globalThis.fetch;
globalThis.fetch = async (url, options) => {
  const response = await send(String(url).replace(shop, application), options);
  if (String(url).startsWith(shop)) console.log("logout token", response.status, await response.clone().text());
  return response;
};

const models = [
  ...["user", "session", "account", "verification", "jwks", "rateLimit", "oauthAccessToken", "oauthClient"],
  ...["oauthClientAssertion", "oauthClientResource", "oauthConsent", "oauthRefreshToken", "oauthResource"],
];
const auth = betterAuth({
  baseURL: origin,
  secret: "a-secret-of-this-provider-that-is-long-enough",
  database: memoryAdapter(Object.fromEntries(models.map((model) => [model, []]))),
  emailAndPassword: { enabled: true },
  telemetry: { enabled: false },
  plugins: [
    jwt({ jwks: { keyPairConfig: { alg: "RS256", modulusLength: 2048 } } }),
    oauthProvider({
      loginPage: "/login",
      consentPage: "/consent",
      customIdTokenClaims: ({ user }) => ({ name: user.name }),
    }),
  ],
});

// The cookies of a user with this name, who is signed up on the way.
async function signedIn(name) {
  const body = { email: `${name}@example.com`, password, name };
  const known = await auth.api.signInEmail({ body, asResponse: true });
  const response = known.ok ? known : await auth.api.signUpEmail({ body, asResponse: true });
  return response.headers.getSetCookie();
}

const cookie = (await signedIn("the-administrator")).map((line) => line.split(";")[0]).join("; ");
const client = await auth.api.adminCreateOAuthClient({
  headers: new Headers({ cookie }),
  body: {
    redirect_uris: [`${application}/callback`],
    application_type: "native",
    token_endpoint_auth_method: "client_secret_basic",
    skip_consent: true,
    backchannel_logout_uri: `${shop}/backchannel-logout`,
    backchannel_logout_session_required: true,
  },
});

const form = '<form method="post" action=""><input name="login"><button>Sign in</button></form>';
const handle = toNodeHandler(auth);
createServer(async (request, response) => {
  const url = new URL(request.url, origin);
  if (url.pathname === "/client") {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(client));
  } else if (url.pathname !== "/login") {
    handle(request, response);
  } else if (request.method === "POST") {
    let body = "";
    for await (const chunk of request) body += chunk;
    for (const name of ["sig", "exp", "iat"]) url.searchParams.delete(name);
    response.setHeader("set-cookie", await signedIn(new URLSearchParams(body).get("login")));
    response.writeHead(303, { location: `${origin}/api/auth/oauth2/authorize?${url.searchParams}` }).end();
  } else {
    response.setHeader("content-type", "text/html");
    response.end(form.replace('action=""', `action="${origin}${request.url.replaceAll("&", "&amp;")}"`));
  }
}).listen(Number(port), "127.0.0.1");
