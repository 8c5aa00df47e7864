-- The logic of callbacks.conf: POST only, the header "server" names a zone, /mail is a service of its
-- own, DNS knows the address, which is kept for a minute.
--
-- What its published model gets wrong is kept on purpose: the first answer is taken for an address
-- even if it is an alias, times to live are ignored, failures are forgotten at once, a resolv.conf
-- with "domain" instead of "search" ends in an error, a header that is there twice becomes the text
-- of a Lua table, and nothing that a caller sends is looked at before it is part of a name.
local resolver = require "nginx.dns.resolver"

local M = {}

local KEPT_S = 60
local NAME_SERVERS_MAX = 3
local SEARCH_DOMAINS_MAX = 6

local name_servers = {}
local search = {}

-- In lower case, with the limits of the C library. The port behind a colon is for tests.
function M.read_resolv_conf(path)
    for line in io.lines(path) do
        local word, rest = line:lower():gsub("[#;].*", ""):match("^%s*(%S+)%s+(.-)%s*$")
        if word == "nameserver" and #name_servers < NAME_SERVERS_MAX then
            local host, port = rest:match("^([%d.]+):(%d+)$")
            name_servers[#name_servers + 1] = { host or rest, tonumber(port) or 53 }
        elseif word == "search" then
            search = {}
            for domain in rest:gmatch("%S+") do
                if #search < SEARCH_DOMAINS_MAX then
                    search[#search + 1] = domain
                end
            end
        end
    end
end

local function ask(name)
    local asking, problem = resolver:new({ nameservers = name_servers })
    if not asking then
        ngx.log(ngx.ERR, "no resolver: ", problem)
        return nil
    end
    asking.cur = 1 -- newer libraries have no_random for it: begin with the first name server
    local answers, failure = asking:query(name, { qtype = asking.TYPE_A })
    if not answers then
        ngx.log(ngx.ERR, "no answer: ", failure)
        return nil
    end
    if answers.errcode then
        ngx.log(ngx.ERR, "refused: ", answers.errcode, " ", answers.errstr, " ", name)
        return nil
    end
    return answers[1] and answers[1].address
end

local function address_of(host)
    local kept = ngx.shared.addresses:get(host)
    if kept then
        return kept
    end
    local address = ask(host .. "." .. search[1])
    ngx.shared.addresses:set(host, address, KEPT_S)
    return address
end

function M.rewrite()
    if ngx.req.get_method() ~= "POST" then
        return ngx.exit(405)
    end
    local zone = ngx.req.get_headers()["server"]
    if not zone then
        return ngx.exit(403)
    end
    local service = ngx.var.uri == "/mail" and "mail" or "default"
    local address = address_of("zone" .. tostring(zone) .. "-" .. service)
    if not address then
        return ngx.exit(502)
    end
    ngx.ctx.address = address
end

return M
