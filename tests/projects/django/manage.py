import http.server
import sys

host, port = sys.argv[2].split(":")
print("watching for changes")
http.server.HTTPServer((host, int(port)), http.server.SimpleHTTPRequestHandler).serve_forever()
