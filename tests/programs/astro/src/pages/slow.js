export async function GET() {
  await new Promise((done) => setTimeout(done, 1500));
  return new Response("slow\n");
}
