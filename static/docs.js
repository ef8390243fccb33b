// The API's description as a page, by Swagger UI from our own files.
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
