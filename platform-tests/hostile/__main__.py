"""A hostile OpenAI-compatible upstream: the model's name in a request chooses what goes wrong, or right.

Run it as a process of its own:  python platform-tests/hostile PORT [HOST]   (0 takes a free port)
Its first line on stdout is its address, such as `http://127.0.0.1:41234`; give `<address>/v1` to a catalogue as
base_url. `hostile_process.py` beside this folder does all that: `with running_hostile() as hostile:` has `.url`,
`.counts()`, `.last(scenario)` and `.reset()`; `catalogue_upstreams(hostile.url)` and `catalogue_models()` write the
entries of a catalogue, one model `hostile-<scenario>` for each scenario, and `hostile-refused`.

  POST /v1/chat/completions     `model` is a scenario below; `hostile-` before it is left out
  GET  /counts                  {"requests": {scenario: n}, "open": {...}, "left": {...}, "connections": n}
                                requests: how many came; open: how many run now; left: how many the client gave up on
                                before their end; connections: open TCP connections, the one that asks included
  GET  /last?scenario=NAME      {"body": ..., "headers": ...} of the latest request of that scenario
  POST /reset                   sets requests and left to nothing

Answers that are right (stream and not; honour max_tokens with finish_reason length, n, logprobs, stream_options; usage
is 12 prompt tokens, 4 of them cached, and one completion token a word and choice, 1 of them reasoning):
  ok                     "Hello from the hostile upstream, which is in a good mood today."; an answer after `role: tool`
                         messages is "The tools said: " and their contents
  ok-paced               200 words, or max_tokens up to 3000, 20 ms apart: to leave in the middle
  ok-tools               calls each tool of the request once, in parallel (arguments fit its schema); then as ok
  ok-json                the smallest value that fits response_format's schema, or {"ok": true}
  ok-n                   as ok; a text of its own for each of n
  ok-echo                the request body, as JSON text
  ok-length              ends with finish_reason length in the middle of JSON
  refusal                delta.refusal / message.refusal "I cannot help with that.", finish_reason stop
  filtered               some words, then finish_reason content_filter
  bad-json               JSON text that fits no schema ({"unexpected": 1}), always
  bad-json-once          as bad-json, but as ok-json once the conversation has an assistant's turn
  bad-tools              calls the first tool with arguments that are not JSON
  no-usage               as ok, without usage
  flaky                  every other request is 500, beginning with the first; the others are ok
Statuses:
  500  503  401  404     with the usual error body; 401 repeats the Authorization header in it
  400                    names `temperature` as param
  context-length         400 with code context_length_exceeded
  429                    without Retry-After
  429-retry-after        Retry-After: 7
  429-date               Retry-After: an HTTP date 30 s ahead
  429-long               Retry-After: 86400
  redirect               302 to /redirected on itself; /counts shows requests.redirected if someone follows
Faults (stream and not; what differs is said):
  silent                 takes the request and never answers
  slow-first-byte        as ok, after 3 s
  stall                  half of the answer, then nothing, with the connection open
  cut                    half of the answer, then the connection is reset
  garbage                random bytes under the right content type
  not-http               random bytes instead of an HTTP response
  wrong-type             200 with an HTML page
  truncated-json         the last text event / the body breaks off inside its JSON, everything else is in order
  empty-choices          200 with `choices: []`
  no-finish              the whole answer without a finish_reason, [DONE] included
  one-of-n               one choice, whatever n is
  error-200              200 with an error body (application/json)
  error-event            half of the answer, then an event / a body with `error`
  endless                words without an end, as fast as they are read / a body without an end
  huge-line              one line of 64 MiB / a body of 64 MiB
`refused` is what this program cannot be: take a port that nobody listens on.
"""

import asyncio
import sys

from server import serve

if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
