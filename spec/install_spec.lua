--- The rock: `luarocks make` into an empty tree, and a bare `require "threadpool"` from that tree alone.
-- Each interpreter that runs the specs installs for its own version; LuaJIT loads what was built for 5.1.

local helper = require "spec.helper"

local version = helper.interpreter.version

-- Nothing of the `make` that runs the specs may reach the one that luarocks runs; nor may paths that are set here.
local CLEAN = { MAKEFLAGS = false, MAKELEVEL = false, MFLAGS = false, LUA = false, LUA_PATH = false, LUA_CPATH = false }
local BUILD_SECONDS = 600

describe("luarocks make #install", function()
    local tree, status, log, lacking

    setup(function()
        local luarocks = "luarocks --lua-version " .. version
        if helper.shell(luarocks .. " config lua_interpreter", { env = CLEAN }) ~= 0 then
            lacking = "no luarocks for Lua " .. version
            return
        end
        local _, path = helper.shell "mktemp -d"
        tree = path:match "[^\n]+"
        local command = ("%s --tree %s make 2>&1"):format(luarocks, helper.quote(tree))
        status, log = helper.shell(command, { env = CLEAN, timeout = BUILD_SECONDS })
        -- The module needs no headers, yet luarocks refuses to start without.
        if log:find "Failed finding Lua header files" then
            lacking = "luarocks finds no headers of Lua " .. version
        end
    end)

    teardown(function()
        if tree then
            helper.shell("rm -rf " .. helper.quote(tree))
        end
    end)

    -- Only this tree is on the path: the checkout's own build cannot stand in for it.
    local function run(program)
        return helper.run(program, {
            path = ("%s/share/lua/%s/?.lua;%s/share/lua/%s/?/init.lua"):format(tree, version, tree, version),
            cpath = ("%s/lib/lua/%s/?.so"):format(tree, version),
        })
    end

    it("installs", function()
        if lacking then
            pending(lacking)
            return
        end
        assert.are.equal(0, status, log)
    end)

    it("gives a module that loads by its bare name and works", function()
        if lacking then
            pending(lacking)
            return
        end
        local code, out, err = run [[
            local threadpool = require "threadpool"
            local two = 2
            print(threadpool.runInPool("CPU", function() return 40 + two end))
        ]]
        assert.are.same({ 0, "true\t42\n", "" }, { code, out, err })
    end)

    it("puts the Lua files beside it, and none that would hide the library", function()
        if lacking then
            pending(lacking)
            return
        end
        local share = ("%s/share/lua/%s/"):format(tree, version)
        local function exists(name)
            local file = io.open(share .. name)
            return file ~= nil and file:close() and true
        end
        assert.is_true(exists "threadpool/_meta.lua")
        assert.is_falsy(exists "threadpool.lua")
        assert.is_falsy(exists "threadpool/init.lua")
    end)
end)
