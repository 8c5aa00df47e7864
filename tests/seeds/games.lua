-- The logic of games.conf: three arguments of the query name a hash and its field in Redis, which
-- hold the node's address.
--
-- What its published model gets wrong is kept on purpose: a connection to Redis for each request,
-- and what Redis holds is used unseen as the place to connect to and the name of a file.
local redis = require "nginx.redis"

local M = {}

local TIMEOUT_MS = 1000

local function means_nothing(value)
    return value == nil or value == ngx.null or value == "" or value == "null" or value == "NULL"
end

local function fail(...)
    ngx.log(ngx.ERR, ...)
    return ngx.exit(500)
end

function M.find_node(port)
    local platform = ngx.var.arg_platform
    local node = ngx.var.arg_nodeName
    local thread = ngx.var.arg_threadId
    if not (platform and node and thread) then
        return fail("an argument is missing")
    end
    local store = redis:new()
    store:set_timeout(TIMEOUT_MS)
    local connected, problem = store:connect("127.0.0.1", port)
    if not connected then
        return fail("no Redis: ", problem)
    end
    local key = "game-server_" .. platform .. "_node_" .. node
    local address = store:hget(key, thread)
    if means_nothing(address) then
        return fail("no node: ", key)
    end
    ngx.var.backend_node = address
end

return M
