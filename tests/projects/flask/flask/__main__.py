import http.server
import sys

port = int(sys.argv[sys.argv.index("--port") + 1])
assert sys.argv[1:4] == ["--app", "blog_engine", "run"], sys.argv
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
