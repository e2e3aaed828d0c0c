-- What the last derivation runs: a little of most of Lua's library, and a picture.

print(("This is %s, compiled by builds of its own."):format(_VERSION))

-- Closures, tables, string patterns.
local words = {}
for word in ("offloading is delegating builds to other machines"):gmatch("%a+") do
   words[#words + 1] = word:sub(1, 1):upper() .. word:sub(2)
end
print(table.concat(words, " "))

-- Integers, arbitrarily long, by hand: 50! digit by digit.
local digits = { 1 }
for factor = 2, 50 do
   local carry = 0
   for i = 1, #digits do
      carry = carry + digits[i] * factor
      digits[i], carry = carry % 10, carry // 10
   end
   while carry > 0 do
      digits[#digits + 1], carry = carry % 10, carry // 10
   end
end
print("50! = " .. string.reverse(table.concat(digits)))

-- Coroutines: primes, one asked for at a time.
local primes = coroutine.wrap(function()
   local known = {}
   for candidate = 2, math.huge do
      local prime = true
      for _, p in ipairs(known) do
         if p * p > candidate then break end
         if candidate % p == 0 then prime = false break end
      end
      if prime then
         known[#known + 1] = candidate
         coroutine.yield(candidate)
      end
   end
end)
local some = {}
for i = 1, 12 do some[i] = primes() end
print("primes: " .. table.concat(some, " "))

-- Floating point: the Mandelbrot set.
for y = -1.14, 1.2, 0.12 do
   local row = {}
   for x = -2.1, 0.7, 0.04 do
      local a, b, n = 0.0, 0.0, 0
      while a * a + b * b < 4 and n < 60 do
         a, b, n = a * a - b * b + x, 2 * a * b + y, n + 1
      end
      row[#row + 1] = (" .:-=+*#%@"):sub(n * 9 // 60 + 1, n * 9 // 60 + 1)
   end
   print(table.concat(row))
end
