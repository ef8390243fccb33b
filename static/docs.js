// The API's description as a page, by Swagger UI from our own files.
if (matchMedia("(prefers-color-scheme: dark)").matches) document.documentElement.classList.add("dark-mode");

const api = document.getElementById("api");
SwaggerUIBundle({
  domNode: api,
  url: api.dataset.description,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  persistAuthorization: false,
  validatorUrl: null,
});
