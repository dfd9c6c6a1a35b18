"""What a page does in a browser, as far as that can be tried without one."""

import json
import shutil
import subprocess
from importlib.resources import files

# What set-up goes by when it installs what is in JavaScript.
NODE = shutil.which("node") if shutil.which("npm") else None

if NODE:

    def test_the_live_reference_asks_where_it_came_from() -> None:
        """Whatever address is published, from which the page may be told to ask nothing."""
        script = files("gateway").joinpath("static", "docs.js").read_text()
        asked = ["/openapi.json", "http://127.0.0.1:8080/v1/api/keys/key_1?a=b%2Fc"]
        around = f"""
            let intercept = (request) => request;
            const window = {{
              location: new URL("http://localhost:8080/docs#/keys"),
              SwaggerUIBundle: (options) => {{
                intercept = options.requestInterceptor ?? intercept;
              }},
            }};
            {script}
            const asked = {json.dumps(asked)}.map((url) => intercept({{ url, method: "GET" }}));
            console.log(JSON.stringify(asked));
        """
        ran = subprocess.run([NODE, "-e", around], capture_output=True, text=True, check=True)
        origin = "http://localhost:8080"
        assert json.loads(ran.stdout) == [
            {"url": f"{origin}/openapi.json", "method": "GET"},
            {"url": f"{origin}/v1/api/keys/key_1?a=b%2Fc", "method": "GET"},
        ]
