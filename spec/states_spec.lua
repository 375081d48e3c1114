--- Several Lua states of one process that each load the module: by threads of luv, by LuaJIT's ffi.

local helper = require "spec.helper"

local assert = assert
local describe, it, pending = describe, it, pending

local function program(source, options)
    local status, out, err = helper.run(([[
        package.path, package.cpath = %q, %q
    ]]):format(package.path, package.cpath) .. source, options)
    return { status, out, err }
end

describe("a state of another thread", function()
    if not pcall(require, "luv") then
        pending "luv is not installed"
        return
    end

    -- `body` runs in a thread with a state of its own, closed at its end; gets a path to write to.
    local function threads(count, body, rest)
        local path = os.tmpname()
        local result = program(([[
            local luv = require "luv"
            local function body(path, cpath, out)
                package.path, package.cpath = path, cpath
                local threadpool = require "threadpool"
                local function mark(text)
                    local file = io.open(out, "a")
                    file:write(text, "\n")
                    file:close()
                end
                %s
            end
            local threads = {}
            for n = 1, %d do
                threads[n] = luv.new_thread(body, package.path, package.cpath, %q)
            end
            local function join()
                for _, thread in ipairs(threads) do
                    thread:join()
                end
            end
            %s
        ]]):format(body, count, path, rest or "join()"))
        local marks = {}
        for mark in (helper.content(path) or ""):gmatch "[^\n]+" do
            marks[mark] = (marks[mark] or 0) + 1
        end
        os.remove(path)
        return result, marks
    end

    it("uses pools and closes while the process goes on", function()
        local result, marks = threads(4, [[
            for _ = 1, 50 do
                local ok, value = threadpool.runInPool("CPU", function() return 42 end)
                if ok and value == 42 then mark "right" end
            end
        ]])
        assert.are.same({ { 0, "", "" }, { right = 200 } }, { result, marks })
    end)

    it("closes with tasks on their way: they go on, their completions are dropped", function()
        local result, marks = threads(4, [[
            for _ = 1, 25 do
                threadpool.runInPool("CPU", function()
                    threadpool.sleep(0.02)
                    mark "task"
                end, function() mark "completion" end, threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
            end
        ]], [[
            local threadpool = require "threadpool"
            threadpool.runInPool("CPU", function() end)
            join()
            print(threadpool.runInPool("CPU", function() return "main" end))
        ]])
        assert.are.same({ { 0, "true\tmain\n", "" }, { task = 100 } }, { result, marks })
    end)

    it("each has its own outcomes, _OSTLS and pending", function()
        local result, marks = threads(3, [[
            threadpool._OSTLS.mine = tostring(threadpool)
            local pool, right = threadpool.fixed(2), 0
            for n = 1, 200 do
                threadpool.runInPool("CPU", function() return n end, function(_, value)
                    right = right + (value == n and 1 or 0)
                end, threadpool.core.ECTP_COMPLETE_CALLBACK_SCHED)
            end
            while threadpool.pending() > 0 do threadpool.wait(1) end
            if right == 200 and threadpool._OSTLS.mine == tostring(threadpool) then mark "right" end
        ]])
        assert.are.same({ { 0, "", "" }, { right = 3 } }, { result, marks })
    end)

    it("comes and goes again and again", function()
        local result, marks = threads(1, "mark 'first'", [[
            join()
            for _ = 1, 30 do
                threads = { luv.new_thread(function(path, cpath)
                    package.path, package.cpath = path, cpath
                    local threadpool = require "threadpool"
                    threadpool.fixed(1):post(function() end)
                    threadpool.runInPool("CPU", function() end)
                    threadpool.runInPool("IO", function() end, true)
                end, package.path, package.cpath) }
                join()
            end
        ]])
        assert.are.same({ { 0, "", "" }, { first = 1 } }, { result, marks })
    end)

    it("still at work when the main state ends", function()
        local result = threads(2, [[
            for _ = 1, 1000000 do
                local ok = pcall(threadpool.runInPool, "CPU", function() end)
            end
        ]], [[
            local threadpool = require "threadpool"
            threadpool.runInPool("CPU", function() end)
            threadpool.sleep(0.05)
            os.exit(0)
        ]])
        assert.are.equal(0, result[1])
    end)
end)

describe("two states in one thread", function()
    if not helper.interpreter.is_jit then
        pending "need LuaJIT's ffi"
        return
    end

    local FFI = [[
        local ffi = require "ffi"
        ffi.cdef "typedef struct lua_State lua_State; lua_State *luaL_newstate(void);"
        ffi.cdef "void luaL_openlibs(lua_State *); void lua_close(lua_State *);"
        ffi.cdef "int luaL_loadstring(lua_State *, const char *); int lua_pcall(lua_State *, int, int, int);"
        ffi.cdef "const char *lua_tolstring(lua_State *, int, size_t *);"
        local C = ffi.C
        local SETUP = ("package.path, package.cpath = %q, %q; threadpool = require 'threadpool'; ")
            :format(package.path, package.cpath)
        local function run(state, source)
            if C.luaL_loadstring(state, source) ~= 0 or C.lua_pcall(state, 0, 0, 0) ~= 0 then
                error(ffi.string(C.lua_tolstring(state, -1, nil)), 0)
            end
        end
        -- lua_close may run Lua of this state: it must not be compiled into a trace.
        local function open()
            local state = C.luaL_newstate()
            C.luaL_openlibs(state)
            run(state, SETUP)
            return state
        end
        jit.off()
        local WORK = [=[
            local threadpool = threadpool
            for _ = 1, 20 do
                threadpool.runInPool("CPU", function() threadpool.sleep(0.01) end, true)
                threadpool.runInPool("IO", function() end, function() end, threadpool.ECTP_COMPLETE_CALLBACK_SCHED)
            end
            assert(threadpool.runInPool("CPU", function() return true end))
        ]=]
    ]]

    it("close in the order in which they were made", function()
        assert.are.same({ 0, "", "" }, program(FFI .. [[
            local a, b = open(), open()
            run(a, WORK)
            run(b, WORK)
            C.lua_close(a)
            run(b, WORK)
            C.lua_close(b)
        ]]))
    end)

    it("close in the other order", function()
        assert.are.same({ 0, "", "" }, program(FFI .. [[
            local a, b = open(), open()
            run(a, WORK)
            run(b, WORK)
            C.lua_close(b)
            run(a, WORK)
            C.lua_close(a)
        ]]))
    end)

    it("all close, and a new one works", function()
        assert.are.same({ 0, "", "" }, program(FFI .. [[
            for _ = 1, 5 do
                local a = open()
                run(a, WORK)
                C.lua_close(a)
            end
            local threadpool = require "threadpool"
            assert(threadpool.runInPool("CPU", function() return true end))
        ]]))
    end)
end)
