window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  // To where the page itself came from: the published address may be another one (localhost and
  // 127.0.0.1, say), which the page's own policy would not let it reach.
  requestInterceptor: (request) => {
    const { pathname, search } = new URL(request.url, window.location.origin);
    return Object.assign(request, { url: window.location.origin + pathname + search });
  },
});
