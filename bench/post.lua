-- For wrk: posts the file given as first argument with the key given as second, and ends with a line of JSON.
function init(arguments)
  wrk.method = "POST"
  wrk.body = io.open(arguments[1], "rb"):read("*a")
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = "Bearer " .. arguments[2]
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format('\n{"seconds": %f, "requests": %d, "failed": %d, "p50": %f, "p99": %f}',
    summary.duration / 1e6, summary.requests, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
