-- Keeps a copy of each prediction for the access log, and refuses JSON that could end the model server.
-- Objects obtained before body() are dead after it, so body() comes first. Metadata ends at the first zero byte, and
-- its strings must be UTF-8: base64. Never body(true), which gives errors of gRPC an empty body and so breaks them.

local DEEPEST = 254 -- lists and objects inside each other; some thousands more end TensorFlow Serving
local CLIENT, LOGGED = "@client@", @logged@

local function is_too_deep(text)
  local byte, depth, in_string, i, size = string.byte, 0, false, 1, #text
  while i <= size do
    local c = byte(text, i)
    if in_string then
      if c == 92 then i = i + 1 elseif c == 34 then in_string = false end -- \ "
    elseif c == 34 then in_string = true
    elseif c == 91 or c == 123 then -- [ {
      depth = depth + 1
      if depth > DEEPEST then return true end
    elseif c == 93 or c == 125 then depth = depth - 1 end -- ] }
    i = i + 1
  end
  return false
end

local function refuse(handle, status, problem)
  handle:respond({[":status"] = status, ["content-type"] = "application/json"}, '{"error": "' .. problem .. '"}')
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  local is_grpc = path:sub(1, 20) == "/tensorflow.serving."
  if handle:headers():get(":method") ~= "POST" then return end
  if is_grpc and (not LOGGED or path:match("^[^?]*"):sub(-8) ~= "/Predict") then return end
  local body = handle:body() -- over REST of every POST: the collector decides which are predictions
  if not body then return end
  local text = body:getBytes(0, body:length())
  local headers = handle:headers()
  if not is_grpc then
    local encoding = headers:get("content-encoding") -- gzip was undone before
    if encoding and encoding ~= "identity" then
      return refuse(handle, "415", "Content-Encoding must be gzip or absent")
    end
    if is_too_deep(text) then
      return refuse(handle, "400", "Lists and objects are nested too deep; at most " .. DEEPEST .. " are accepted")
    end
  end
  if not LOGGED then return end
  local metadata = handle:streamInfo():dynamicMetadata()
  local function keep(name, value) metadata:set("dynamarks", name, handle:base64Escape(value)) end
  metadata:set("dynamarks.state", "kept", true) -- small: what is read again is copied whole
  keep("request", text)
  keep("path", path)
  keep("client", headers:get(CLIENT) or "")
  keep("encoding", headers:get("grpc-encoding") or "")
end

function envoy_on_response(handle)
  local state = handle:streamInfo():dynamicMetadata():get("dynamarks.state")
  if not state or handle:headers():get(":status") ~= "200" then return end
  local body = handle:body()
  if not body then return end
  local text, headers = handle:base64Escape(body:getBytes(0, body:length())), handle:headers()
  local metadata = handle:streamInfo():dynamicMetadata()
  local encoding = headers:get("grpc-encoding") or headers:get("content-encoding") or ""
  metadata:set("dynamarks", "answer_encoding", handle:base64Escape(encoding))
  metadata:set("dynamarks", "answer", text)
end
