// An identity provider: node-oidc-provider, as it comes, with a form that lets any name sign in.
// node identity_provider.mjs PORT APPLICATION, in a folder below one that has the package in node_modules.
import Provider from "oidc-provider";

const [port, application] = process.argv.slice(2);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "shop",
      client_secret: "a-secret-of-the-shop-and-the-provider",
      redirect_uris: [`${application}/callback`],
      post_logout_redirect_uris: [`${application}/signed-out`],
      backchannel_logout_uri: `${application}/backchannel-logout`,
      backchannel_logout_session_required: true,
    },
  ],
  features: { backchannelLogout: { enabled: true } },
  // Its own dispatcher refuses addresses of this machine.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
});
for (const name of ["backchannel.success", "backchannel.error"]) {
  provider.on(name, (_, error) => console.log(name, error instanceof Error ? `${error.message}: ${error.cause}` : ""));
}
provider.listen(Number(port), "127.0.0.1");
